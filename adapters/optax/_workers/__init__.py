"""Many workers: when the mean over them is taken, and what of a state is each worker's own."""
