-- Count the jobs of a queue by state.
--
-- KEYS: ready, delayed, blocked, leases, completed, dead, cancelled, moved
-- Returns: the sizes of these indexes, in this order.

local sizes = {}
for i = 1, #KEYS do
  sizes[i] = redis.call('ZCARD', KEYS[i])
end
return sizes
