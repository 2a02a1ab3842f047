"""Many workers that sync together: they agree, weigh their work, and average what they did."""
