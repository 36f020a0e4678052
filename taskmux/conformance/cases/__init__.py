"""The cases, one concern a file. `taskmux.conformance.suite` puts them together."""
