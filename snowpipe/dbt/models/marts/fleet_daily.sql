{{ config(
    materialized='incremental',
    incremental_strategy='restate',
    cluster_by=['event_date'],
    meta={'restates': 'event_date'}
) }}

-- depends_on: {{ ref('restated_days') }}

WITH events AS (

    SELECT
        event_id,
        device_id,
        event_date,
        occurred_at,
        event_type,
        latitude,
        longitude,
        metadata,
        is_replayed,
        IFF(
            latitude IS NOT NULL
            AND longitude IS NOT NULL
            AND COALESCE(location_accuracy_metres, 0) BETWEEN 0 AND {{ var('max_accuracy_metres') }},
            TRUE, FALSE
        ) AS is_located
    FROM {{ ref('stg_events') }}
    WHERE
        device_id IS NOT NULL
        {% if is_incremental() %}
            AND {{ among('event_date', ref('restated_days'), 'event_date') }}
        {% endif %}

),

legs AS (

    SELECT
        device_id,
        event_date,
        HAVERSINE(
            LAG(latitude) OVER (PARTITION BY device_id, event_date ORDER BY occurred_at, event_id),
            LAG(longitude) OVER (PARTITION BY device_id, event_date ORDER BY occurred_at, event_id),
            latitude,
            longitude
        ) AS kilometres
    FROM events
    WHERE is_located

),

distances AS (

    SELECT
        device_id,
        event_date,
        SUM(kilometres) AS kilometres
    FROM legs
    GROUP BY device_id, event_date

),

visits AS (

    SELECT
        device_id,
        event_date,
        SUM(visits) AS visits,
        SUM(IFF({{ is_collection('geofence_tag') }}, visits, 0)) AS collections,
        SUM(dwell_seconds) AS dwell_seconds,
        MAX(last_exited_at) AS last_exited_at
    FROM {{ ref('geofence_pair_days') }}
    {% if is_incremental() %}
        WHERE {{ among('event_date', ref('restated_days'), 'event_date') }}
    {% endif %}
    GROUP BY device_id, event_date

),

counted AS (

    SELECT
        device_id,
        event_date,
        COUNT(*) AS events,
        COUNT_IF(is_replayed) AS replayed_events,
        MIN(occurred_at) AS first_event_at,
        MAX(occurred_at) AS last_event_at,
        SUM(IFF(event_type = 'pickup.completed', {{ litres('metadata') }}, 0)) AS litres
    FROM events
    GROUP BY device_id, event_date

)

SELECT
    {{ key_of(['counted.event_date::VARCHAR', 'counted.device_id']) }} AS fleet_day_key,
    counted.event_date,
    counted.device_id,
    counted.events,
    counted.replayed_events,
    counted.first_event_at,
    counted.last_event_at,
    COALESCE(visits.visits, 0)::INTEGER AS visits,
    COALESCE(visits.collections, 0)::INTEGER AS collections,
    COALESCE(visits.dwell_seconds, 0) AS dwell_seconds,
    COALESCE(counted.litres, 0) AS litres,
    COALESCE(distances.kilometres, 0) AS kilometres,
    visits.last_exited_at
FROM counted
LEFT JOIN visits ON counted.device_id = visits.device_id AND counted.event_date = visits.event_date
LEFT JOIN distances ON counted.device_id = distances.device_id AND counted.event_date = distances.event_date
