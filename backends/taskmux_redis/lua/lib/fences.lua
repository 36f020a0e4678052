-- The highest fence of removed jobs that was ahead of the time: as each claim raises a fence by one,
-- it can be for some milliseconds. New jobs start above it, so that no zombie of a removed job
-- matches. It stands among the memories of origins, as that of none, where `push.lua` reads it
-- along; its time is the fence itself, and prune forgets it like any other once that has passed.
-- Needs: ops; live.lua for `digits`.
local OF_REMOVED = ''

local function fence_in(known)
  return known and tonumber(string.match(known, '^%d+')) or 0
end

local function keep_fence(fence, now)
  if fence >= now and fence > fence_in(redis.call('HGET', ops, OF_REMOVED)) then
    redis.call('HSET', ops, OF_REMOVED, digits(fence) .. ' ' .. digits(fence))
  end
end
