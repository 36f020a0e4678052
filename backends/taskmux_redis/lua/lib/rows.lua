-- Whole records for the driver. Needs: base, work, live, leases.

-- Returns {id, work, lease end, live, notes}; the last three false where there is none. `false`
-- where the queue has no such job.
local function row(id, job, state)
  if not job then
    return false
  end
  state = state or false
  local notes = state and string.sub(state, 4, 4) == '1'
    and redis.call('HGETALL', base .. 'n:' .. id)
  local ends = state and string.sub(state, 1, 1) == 'a' and redis.call('ZSCORE', leases, id)
  return {id, job, ends or false, state, notes or false}
end
