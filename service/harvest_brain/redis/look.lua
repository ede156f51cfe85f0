#!lua flags=no-writes
--[[
  What `decide` needs to know of the world, read in one instant. Writes nothing.

  KEYS[1] lease  KEYS[2] kill-switch  KEYS[3] rate  KEYS[4] executions
  KEYS[5 ..]     keys of what is remembered of fills, then override keys
  ARGV[1]        how many of them are of fills
  ARGV[2]        cursor after what was read         ARGV[3] entries read by then
  ARGV[4]        "1" where that was the end of the stream

  Returns {now_ms, lease or false, kill-switch or false, publish times in ms, newest first,
           {stored content or false per fill key}, {flat hash or false per override key},
           {entries ever added, length, first id, last id, highest deleted id, entries after the cursor or false}}
  or {"type", key} when a fill key holds another type. A stream that does not exist has figures of 0.
  Entries after the cursor are counted at the end of the stream, where more were added than read: they arrived just now,
  or are gone. Of more than MANY that can't be told yet.
  A kill-switch of another type reads as "unreadable", which stops; an override that is no hash is false.
]]
local MANY = 1000

local time = redis.call('TIME')
local kill = redis.pcall('GET', KEYS[2])
if type(kill) == 'table' then kill = 'unreadable' end

local fill_count = tonumber(ARGV[1])
local fills, overrides = {}, {}
for i = 5, 4 + fill_count do
  local stored = redis.pcall('GET', KEYS[i])
  if type(stored) == 'table' then return {'type', KEYS[i]} end
  fills[#fills + 1] = stored
end
for i = 5 + fill_count, #KEYS do
  local hash = redis.pcall('HGETALL', KEYS[i])
  if hash.err then hash = false end
  overrides[#overrides + 1] = hash
end

local stream = {
  ['entries-added'] = 0, ['length'] = 0,
  ['recorded-first-entry-id'] = '0-0', ['last-generated-id'] = '0-0', ['max-deleted-entry-id'] = '0-0',
}
if redis.call('EXISTS', KEYS[4]) == 1 then
  local info = redis.call('XINFO', 'STREAM', KEYS[4])
  for i = 1, #info, 2 do stream[info[i]] = info[i + 1] end
end
local behind = false
if ARGV[4] == '1' and stream['entries-added'] > tonumber(ARGV[3]) then
  local found = #redis.call('XRANGE', KEYS[4], '(' .. ARGV[2], '+', 'COUNT', MANY + 1)
  behind = found <= MANY and found
end
return {
  time[1] * 1000 + math.floor(time[2] / 1000),
  redis.call('GET', KEYS[1]),
  kill,
  redis.call('LRANGE', KEYS[3], 0, -1),
  fills,
  overrides,
  {
    stream['entries-added'], stream['length'], stream['recorded-first-entry-id'], stream['last-generated-id'],
    stream['max-deleted-entry-id'], behind,
  },
}
