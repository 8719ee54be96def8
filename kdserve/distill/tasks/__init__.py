"""Tasks, one file each: parameter groups, batches, losses, the measure."""
