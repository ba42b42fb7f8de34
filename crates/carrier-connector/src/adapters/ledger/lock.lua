-- Holds the right to rebuild, if it is ours and Redis has not restarted since it was taken.
-- KEYS: lock. ARGV: token, lease in ms.
local run = string.match(redis.call('INFO', 'server'), 'run_id:(%x+)')
if redis.call('GET', KEYS[1]) == run .. '|' .. ARGV[1] then
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
  return 1
end
return 0
