-- The scripts of the state machine. The loader puts _prelude in front of each of them, and the parts
-- that a header names ("With _index, _token."), including the parts that these name themselves.
std = {
  read_globals = {
    "KEYS", "ARGV", "redis", "ipairs", "next", "pairs", "tonumber", "tostring", "type", "unpack",
    cjson = { fields = { "decode" } },
    math = { fields = { "abs", "ceil", "floor", "min", "max" } },
    string = { fields = { "byte", "find", "format", "gmatch", "gsub", "match", "rep", "sub" } },
    table = { fields = { "concat", "insert", "sort" } },
  },
}
max_line_length = 100

local folder = "opsqueue/queue/lua/"

-- Collects the names that a file's parts define. Functions may only be read, variables also be set.
local function collect(name, functions, variables, seen)
  local text = assert(io.open(folder .. name .. ".lua")):read("*a")
  local parts = (text:match("\n%-%- With ([_%w, ]+)%.\n") or "") .. " _prelude"
  for part in parts:gmatch("_[%w_]+") do
    if not seen[part] then
      seen[part] = true
      if part ~= name then
        collect(part, functions, variables, seen)
      end
      local source = "\n" .. assert(io.open(folder .. part .. ".lua")):read("*a")
      for defined in source:gmatch("\nlocal function ([%w_]+)") do
        table.insert(functions, defined)
      end
      for list in source:gmatch("\nlocal ([%w_, ]+)") do
        for defined in (list:find("^function ") and "" or list):gmatch("[%w_]+") do
          table.insert(variables, defined)
        end
      end
    end
  end
end

for path in io.popen("ls " .. folder):lines() do
  local name = path:match("^([%w_]+)%.lua$")
  local functions, variables = {}, {}
  collect(name, functions, variables, { [name] = true })
  files[folder .. path].read_globals = functions
  files[folder .. path].globals = variables
  if name:match("^_") then
    -- Each definition is used by some script, which luacheck can't see in this file alone.
    files[folder .. path].ignore = { "211", "231", "241" }
  end
end
