"""What a command does, one function each: data in, a run directory with its report out."""
