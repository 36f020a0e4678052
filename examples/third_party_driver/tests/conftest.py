"""Print, at the end of a run, which levels of the kit the driver keeps."""

pytest_plugins = ["taskmux.conformance.plugin"]
