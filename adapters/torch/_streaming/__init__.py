"""Many workers on a slow network: syncs in fragments, behind the steps, and in few bits."""
