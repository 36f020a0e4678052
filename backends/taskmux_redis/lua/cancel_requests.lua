-- Tell which held jobs are asked to cancel.
--
-- KEYS: live
-- ARGV: items...
--   item: id, fence
-- Returns: a letter a lease: C asked to cancel, H otherwise.
--! include chunks
--! include lease
--! include pairs

local codes = {}
local ids, fences, states = leases_asked()
for i = 1, #ids do
  codes[i] = is_held(states[i], fences[i]) and is_asked(states[i]) and 'C' or 'H'
end
return table.concat(codes)
