#!lua flags=no-writes
--[[
  What `decide` needs to know of the world, read in one instant. Writes nothing.

  KEYS[1] lease  KEYS[2] kill-switch  KEYS[3] rate  KEYS[4] executions
  KEYS[5 ..]     fill keys, then override keys
  ARGV[1]        how many of them are fill keys
  ARGV[2]        group

  Returns {now_ms, lease or false, kill-switch or false, publish times in ms, newest first,
           {stored content or false per fill key}, {flat hash per override key}, the group's lag or false},
  or {"type", key} when a fill key holds another type.
  A kill-switch of another type reads as "unreadable", which stops; so does an override that is no hash: it is empty.
]]
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
  overrides[#overrides + 1] = hash.err and {} or hash
end

local lag = false
local groups = redis.pcall('XINFO', 'GROUPS', KEYS[4])
for _, group in ipairs(groups.err and {} or groups) do
  if group[2] == ARGV[2] then
    for i = 1, #group, 2 do
      if group[i] == 'lag' then lag = group[i + 1] end
    end
  end
end
return {
  time[1] * 1000 + math.floor(time[2] / 1000),
  redis.call('GET', KEYS[1]),
  kill,
  redis.call('LRANGE', KEYS[3], 0, -1),
  fills,
  overrides,
  lag,
}
