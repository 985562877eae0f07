-- What Argo CD shows of a Ringfence resource: by generations and conditions alone. Messages are passed on, never read.
-- The same for every kind, for they keep one contract: Ready, and Reconciling or Stalled, as kstatus has them.
local function health(status, message)
  return { status = status, message = message }
end

local function condition(kind)
  for _, one in ipairs(obj.status.conditions or {}) do
    if one.type == kind and one.status == "True" then
      return one
    end
  end
  return nil
end

-- Argo CD says so itself before it asks a script; whoever runs the script without it gets the same.
if obj.metadata.deletionTimestamp ~= nil then
  return health("Progressing", "Pending deletion")
end

-- Nobody has looked at this version of the resource yet: what the status says is about another one.
if obj.status == nil or obj.status.observedGeneration ~= obj.metadata.generation then
  return health("Progressing", "Waiting for the operator to look at it")
end

local stalled = condition("Stalled")
if stalled ~= nil then
  return health("Degraded", stalled.message)
end

local reconciling = condition("Reconciling")
if reconciling ~= nil then
  return health("Progressing", reconciling.message)
end

local ready = condition("Ready")
if ready ~= nil then
  return health("Healthy", ready.message)
end

return health("Progressing", "Waiting for the operator to say whether it is ready")
