{{ config(
    materialized='incremental',
    incremental_strategy='restate',
    cluster_by=['collection_date'],
    meta={'restates': 'collection_date'}
) }}

-- depends_on: {{ ref('restated_days') }}

{%- set days = values_of('SELECT MIN(event_date)::VARCHAR FROM ' ~ ref('restated_days')) if is_incremental() %}

WITH visits AS (

    SELECT
        *,
        entered_date AS collection_date
    FROM {{ ref('geofence_visits') }}
    WHERE
        {{ is_collection('geofence_tag') }}
        {% if is_incremental() %}
            AND {{ among('entered_date', ref('restated_days'), 'event_date') }}
        {% endif %}

),

-- A pickup names no farm, but the visit during which it happened does.
pickups AS (

    SELECT
        visits.visit_key,
        COUNT(*) AS pickups,
        SUM(events.litres) AS litres
    FROM visits
    INNER JOIN {{ ref('stg_pickups') }} AS events
        ON
            visits.device_id = events.device_id
            AND events.occurred_at >= visits.entered_at
            AND events.occurred_at <= visits.exited_at
    {% if days %} WHERE events.event_date >= '{{ days[0][:10] }}'::DATE {% endif %}
    GROUP BY visits.visit_key

)

SELECT
    {{ key_of(['visits.collection_date::VARCHAR', 'visits.geofence_tag', 'visits.geofence_external_id']) }}
        AS collection_key,
    visits.collection_date,
    visits.geofence_tag,
    visits.geofence_external_id,
    COUNT(*) AS visits,
    COUNT(DISTINCT visits.device_id) AS devices,
    COALESCE(SUM(pickups.pickups), 0)::INTEGER AS pickups,
    COALESCE(SUM(pickups.litres), 0) AS litres,
    MIN(visits.entered_at) AS first_entered_at,
    MAX(visits.exited_at) AS last_exited_at,
    COALESCE(SUM(visits.dwell_seconds), 0) AS dwell_seconds,
    MEDIAN(visits.dwell_seconds) AS dwell_seconds_median,
    COUNT_IF(visits.exit_missed) AS missed_exits,
    COUNT_IF(visits.is_there_now) AS open_visits
FROM visits
LEFT JOIN pickups ON visits.visit_key = pickups.visit_key
GROUP BY visits.collection_date, visits.geofence_tag, visits.geofence_external_id
