-- Events: how long they are kept.
local EVENTS_KEPT_S = 3600  -- their readers read on within seconds
