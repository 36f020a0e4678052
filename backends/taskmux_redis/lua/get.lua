-- Read jobs.
--
-- KEYS: base, leases
-- ARGV: items...
--   item: id
-- Returns: for each id {id, string, lease end or false, fields and values of the hash}; false
--   where there is none; 0 where the key is not a job of ours.
--! include records

local found = {}
for i = items + 1, #ARGV do
  local id = ARGV[i]
  local job, live = read(id)
  if job then
    found[#found + 1] = {id, job, redis.call('ZSCORE', leases, id), live}
  else
    found[#found + 1] = redis.call('EXISTS', base .. 'j:' .. id) == 1 and 0
  end
end
return found
