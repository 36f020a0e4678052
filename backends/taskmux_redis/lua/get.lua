-- Read jobs.
--
-- KEYS: base, work, live, leases
-- ARGV: items...
--   item: id
-- Returns: a row for each id as `lib/rows.lua` makes it, false where there is none.
--! include chunks
--! include rows

local ids = {}
for i = items + 1, #ARGV do
  ids[#ids + 1] = ARGV[i]
end
local jobs, states, found = look_up(work, ids), look_up(live, ids), {}
for i = 1, #ids do
  found[i] = row(ids[i], jobs[i], states[i])
end
return found
