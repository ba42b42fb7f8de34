-- Takes the mark of an attempt off its message: nothing of it is with a carrier, and it may be cancelled again.
-- KEYS: marks. ARGV: the attempt that each may be of.
for index, key in ipairs(KEYS) do
  if redis.call('GET', key) == ARGV[index] then
    redis.call('DEL', key)
  end
end
return 1
