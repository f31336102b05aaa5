-- Built after every other model that reads new_events, except read_rows, because the next run starts from this mark. A
-- run that fails does not change the mark, so the next run reads the same rows again.
{{ config(materialized='table') }}

-- depends_on: {{ ref('stg_events') }}
-- depends_on: {{ ref('stg_pickups') }}
-- depends_on: {{ ref('event_conflicts') }}
-- depends_on: {{ ref('geofence_pair_heads') }}
-- depends_on: {{ ref('geofence_pair_days') }}
-- depends_on: {{ ref('daily_farm_collections') }}
-- depends_on: {{ ref('fleet_daily') }}
-- depends_on: {{ ref('ingest_quality') }}

SELECT scanned_through
FROM {{ ref('high_water_mark') }}
