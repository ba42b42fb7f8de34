-- Gives the right to rebuild back, if it is ours.
-- KEYS: lock. ARGV: token.
local run = string.match(redis.call('INFO', 'server'), 'run_id:(%x+)')
if redis.call('GET', KEYS[1]) == run .. '|' .. ARGV[1] then
  redis.call('DEL', KEYS[1])
end
return 1
