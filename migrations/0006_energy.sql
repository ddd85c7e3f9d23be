-- Energy: what GPUs drew, as their driver measures it, in integer millijoules, divided as money is. NULL: nothing was measured there.
ALTER TABLE windows ADD COLUMN energy_millijoules INTEGER;

ALTER TABLE device_hours ADD COLUMN measured_ns INTEGER NOT NULL DEFAULT 0;  -- of elapsed_ns
ALTER TABLE device_hours ADD COLUMN energy_millijoules INTEGER;              -- = direct + overhead + idle, exactly
ALTER TABLE device_hours ADD COLUMN direct_millijoules INTEGER;
ALTER TABLE device_hours ADD COLUMN overhead_millijoules INTEGER;
ALTER TABLE device_hours ADD COLUMN idle_millijoules INTEGER;

ALTER TABLE usage_hours ADD COLUMN measured_requests INTEGER NOT NULL DEFAULT 0;  -- of requests
ALTER TABLE usage_hours ADD COLUMN direct_millijoules INTEGER;

ALTER TABLE overhead_hours ADD COLUMN millijoules INTEGER;
