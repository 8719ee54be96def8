"""What a run learns, one file a task: parameter groups, batches, losses, the measure."""
