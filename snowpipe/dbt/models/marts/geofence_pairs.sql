{{ config(materialized='view') }}

SELECT
    device_fence_key,
    MAX(device_id) AS device_id,
    MAX(geofence_tag) AS geofence_tag,
    MAX(geofence_external_id) AS geofence_external_id,
    SUM(enters)::INTEGER AS enters,
    SUM(dwells)::INTEGER AS dwells,
    SUM(exits)::INTEGER AS exits,
    SUM(visits)::INTEGER AS visits,
    SUM(missed_exits)::INTEGER AS missed_exits,
    SUM(open_visits)::INTEGER AS open_visits,
    (SUM(exits) - SUM(closing_exits))::INTEGER AS orphan_exits
FROM {{ ref('geofence_pair_days') }}
GROUP BY device_fence_key
