-- Lets claims go that were not intended.
-- KEYS: claims. ARGV: token.
local mine = 'c|' .. ARGV[1] .. '|'
for _, key in ipairs(KEYS) do
  local value = redis.call('GET', key)
  if value and string.sub(value, 1, #mine) == mine then
    redis.call('DEL', key)
  end
end
return 1
