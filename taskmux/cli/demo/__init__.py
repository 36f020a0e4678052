"""`taskmux demo`: the main job, end to end, in a few seconds and with no server."""
