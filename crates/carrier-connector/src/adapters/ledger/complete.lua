-- Declares the rebuilding complete. The lock is gone if Redis was emptied meanwhile or somebody distrusts what is here,
-- and another run's if Redis was restarted.
-- KEYS: ready, lock. ARGV: token.
local run = string.match(redis.call('INFO', 'server'), 'run_id:(%x+)')
if redis.call('GET', KEYS[2]) ~= run .. '|' .. ARGV[1] then
  return 0
end
redis.call('SET', KEYS[1], run .. '|' .. ARGV[1])
redis.call('DEL', KEYS[2])
return 1
