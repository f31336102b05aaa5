-- The rule that derives visits from events is in models/intermediate/visits_by_rule.sql; this table stores its result.
-- Later runs read the stored visits, so this table contains all of them. A mart that counts only some must filter them.
{{ config(
    materialized='incremental',
    incremental_strategy='restate',
    cluster_by=['entered_date'],
    meta={'restates': 'visits'}
) }}

-- depends_on: {{ ref('high_water_mark') }}
-- depends_on: {{ ref('visit_windows') }}
-- depends_on: {{ ref('restated_days') }}
{{ refuse_alone() }}

SELECT
    visit_key,
    device_fence_key,
    device_id,
    geofence_tag,
    geofence_external_id,
    entered_at,
    entered_date,
    exited_at,
    dwell_seconds,
    app_dwell_seconds,
    last_seen_at,
    exit_missed,
    is_there_now,
    entered_event_id,
    exited_event_id,
    crossings,
    last_event_at,
    loaded_at
FROM {{ ref('visits_by_rule') }}
