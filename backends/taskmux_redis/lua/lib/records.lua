-- A job is two keys: `j:<id>`, a string written once (stamp and the work as pushed), and
-- `s:<id>`, a hash of what changes. Most waiting jobs have no hash yet: it is the string that
-- keeps a backlog small, and a few short fields that keep a claim fast.
-- Needs: base, corrupt.
local function read(id)
  local job = redis.pcall('GET', base .. 'j:' .. id)
  if type(job) ~= 'string' or #job <= 23 then
    return nil
  end
  local live = redis.pcall('HGETALL', base .. 's:' .. id)
  if live.err then
    return nil
  end
  return job, live
end

local function field(live, name)
  for i = 1, #live, 2 do
    if live[i] == name then
      return live[i + 1]
    end
  end
  return false
end

-- An index names a job that is not there or is not ours: it is put down for the operator, and
-- no index holds it any more.
local function set_aside(id, now)
  redis.call('HSET', corrupt, id, now)
end
