"""What the scripts of this toolkit share: data, planning, shared-prefix attention, models and losses."""
