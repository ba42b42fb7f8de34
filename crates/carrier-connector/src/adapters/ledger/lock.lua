-- Holds the right to rebuild, if it is ours.
-- KEYS: lock. ARGV: token, lease in ms.
if redis.call('GET', KEYS[1]) == ARGV[1] then
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
  return 1
end
return 0
