"""When schedules are due. Pure functions on the data of `taskmux.model.triggers`.

`declare` and `words` turn what users write into data, and refuse what cannot be. `slots` computes
when a trigger is due; below it are `cron` (with its dialect in `fields`, and zones in `dst`),
`interval` and `exclude`. `plan` decides what to do about a schedule, and `stamp` notices when
another version of the engine computes other slots.
"""
