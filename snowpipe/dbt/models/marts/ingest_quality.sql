{{ config(
    materialized='incremental',
    incremental_strategy='restate',
    cluster_by=['received_hour'],
    meta={'restates': 'hours'}
) }}

-- depends_on: {{ ref('high_water_mark') }}
-- depends_on: {{ ref('restated_hours') }}

{%- set hours = values_of('SELECT DISTINCT received_hour::VARCHAR FROM ' ~ ref('restated_hours')) %}
{%- set restated = in_hours('received_at', hours) if is_incremental() else 'TRUE' %}

WITH accepted AS (

    SELECT
        DATE_TRUNC('hour', received_at) AS received_hour,
        event_id,
        event_type,
        -- Lateness, by the app's own server clock if given, otherwise by ours.
        DATEDIFF('second', occurred_at, COALESCE(app_server_created_at, received_at)) AS lateness_seconds
    FROM {{ ref('stg_events') }}
    WHERE {{ restated }}

),

conflicts AS (

    SELECT
        DATE_TRUNC('hour', received_at) AS received_hour,
        COUNT(*) AS conflicts
    FROM {{ ref('event_conflicts') }}
    WHERE {{ restated }}
    GROUP BY DATE_TRUNC('hour', received_at)

),

deliveries AS (

    SELECT
        DATE_TRUNC('hour', received_at) AS received_hour,
        COUNT(*) AS deliveries
    FROM {{ ref('typed_events') }}
    WHERE invalid_code IS NULL AND scanned_at <= {{ mark('scanned_through') }} AND {{ restated }}
    GROUP BY DATE_TRUNC('hour', received_at)

),

by_hour AS (

    SELECT
        received_hour,
        COUNT(*) AS events,
        MEDIAN(lateness_seconds) AS lateness_seconds_median,
        PERCENTILE_CONT(0.95) WITHIN GROUP (ORDER BY lateness_seconds) AS lateness_seconds_p95,
        MAX(lateness_seconds) AS lateness_seconds_max
    FROM accepted
    GROUP BY received_hour

),

accepted_hours AS (

    SELECT
        deliveries.received_hour,
        'accepted' AS outcome,
        '' AS code,
        '' AS app_version,
        COALESCE(by_hour.events, 0) AS events,
        deliveries.deliveries,
        COALESCE(conflicts.conflicts, 0) AS conflicts,
        by_hour.lateness_seconds_median,
        by_hour.lateness_seconds_p95,
        by_hour.lateness_seconds_max
    FROM deliveries
    LEFT JOIN by_hour ON deliveries.received_hour = by_hour.received_hour
    LEFT JOIN conflicts ON deliveries.received_hour = conflicts.received_hour

),

rejected_hours AS (

    SELECT
        DATE_TRUNC('hour', received_at) AS received_hour,
        'rejected' AS outcome,
        COALESCE(code, '') AS code,
        COALESCE(app_version, '') AS app_version,
        COUNT(*) AS events,
        COUNT(*) AS deliveries,
        0 AS conflicts,
        NULL::FLOAT AS lateness_seconds_median,
        NULL::FLOAT AS lateness_seconds_p95,
        NULL::FLOAT AS lateness_seconds_max
    FROM {{ ref('stg_rejected_events') }}
    WHERE scanned_at <= {{ mark('scanned_through') }} AND {{ restated }}
    GROUP BY DATE_TRUNC('hour', received_at), COALESCE(code, ''), COALESCE(app_version, '')

),

invalid_hours AS (

    SELECT
        DATE_TRUNC('hour', received_at) AS received_hour,
        'invalid' AS outcome,
        code,
        '' AS app_version,
        COUNT(*) AS events,
        COUNT(*) AS deliveries,
        0 AS conflicts,
        NULL::FLOAT AS lateness_seconds_median,
        NULL::FLOAT AS lateness_seconds_p95,
        NULL::FLOAT AS lateness_seconds_max
    FROM {{ ref('invalid_rows') }}
    WHERE scanned_at <= {{ mark('scanned_through') }} AND {{ restated }}
    GROUP BY DATE_TRUNC('hour', received_at), code

),

hours AS (

    SELECT * FROM accepted_hours
    UNION ALL
    SELECT * FROM rejected_hours
    UNION ALL
    SELECT * FROM invalid_hours

)

SELECT
    {{ key_of(['received_hour::VARCHAR', 'outcome', 'code', 'app_version']) }} AS quality_key,
    received_hour,
    outcome,
    code,
    app_version,
    events,
    deliveries,
    conflicts,
    lateness_seconds_median,
    lateness_seconds_p95,
    lateness_seconds_max
FROM hours
