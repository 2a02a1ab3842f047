"""The small inner optimizers of the array loop, and what goes into them: clipping, schedules."""
