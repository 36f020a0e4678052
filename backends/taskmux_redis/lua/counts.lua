-- Count the jobs of a queue by state.
--
-- KEYS: ready, grouped, delayed, blocked, leases, completed, dead, cancelled, moved
-- Returns: the sizes of these indexes, in this order; the first two, both of waiting jobs, as one.

local sizes = {redis.call('ZCARD', ready) + redis.call('ZCARD', grouped)}
for i = 3, #KEYS do
  sizes[i - 1] = redis.call('ZCARD', KEYS[i])
end
return sizes
