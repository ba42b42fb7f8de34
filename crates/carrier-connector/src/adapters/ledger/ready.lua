-- The mark of a scope, if what is here was built or rebuilt in this Redis; else ''.
-- KEYS: ready.
local run = string.match(redis.call('INFO', 'server'), 'run_id:(%x+)')
local mark = redis.call('GET', KEYS[1])
return mark and string.sub(mark, 1, #run) == run and mark or ''
