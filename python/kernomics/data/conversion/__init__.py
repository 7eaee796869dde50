"""Writing cells anew in the form that trainings read fastest: `kernomics convert`."""
