-- Wake as many waiters as there are new jobs: each pops one member of the marker. Members that
-- are there already stay one, so the marker never grows. Needs: marker.
local WAITERS = 16

local function wake(jobs)
  local members = {}
  for i = 1, math.min(jobs, WAITERS) do
    members[2 * i - 1] = 0
    members[2 * i] = i
  end
  if jobs > 0 then
    redis.call('ZADD', marker, unpack(members))
  end
end
