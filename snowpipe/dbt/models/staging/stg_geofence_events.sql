{{ config(
    materialized='incremental',
    incremental_strategy='restate',
    cluster_by=['event_date'],
    meta={'restates': 'geofence_events'}
) }}

-- depends_on: {{ ref('high_water_mark') }}
-- depends_on: {{ ref('new_events') }}
-- depends_on: {{ ref('touched_events') }}
-- depends_on: {{ ref('typed_events') }}
-- This query does not read the next model, but the tests of this model do. In Airflow, a test runs with the last model
-- that it reads (ops/nightly.py).
-- depends_on: {{ ref('stg_events') }}

{%- set days = replaced_days('has_conflict') if is_incremental() %}
{%- set as_typed %}
        device_id,
        geofence_tag,
        geofence_external_id,
        event_key,
        event_id,
        event_type,
        kind,
        occurred_at,
        event_date,
        duration_minutes,
        confidence
{%- endset %}
{%- set columns %}
        geofence_event_key,
        device_fence_key,
        {{- as_typed }},
        loaded_at,
        read_through
{%- endset %}

WITH arrived AS (

    SELECT
        {{ key_of(['device_id', 'geofence_tag', 'geofence_external_id', 'event_id']) }} AS geofence_event_key,
        {{ key_of(['device_id', 'geofence_tag', 'geofence_external_id']) }} AS device_fence_key,
        {{- as_typed }},
        scanned_at AS loaded_at,
        read_through
    FROM {{ arrivals() }}
    WHERE
        kind IS NOT NULL
        {% if is_incremental() %}
            AND event_key NOT IN (SELECT event_key FROM {{ ref('touched_events') }} WHERE is_known AND NOT has_conflict)
        {% endif %}

),

contents AS (

    SELECT
        *,
        FALSE AS is_stored
    FROM arrived
    {% if days %}
        UNION ALL
        SELECT
            {{- columns }},
            TRUE AS is_stored
        FROM {{ this }}
        WHERE
            {{ one_of_days('event_date', days) }}
            AND geofence_event_key IN (SELECT geofence_event_key FROM arrived)
    {% endif %}

),

least AS (

    SELECT *
    FROM contents
    QUALIFY
        ROW_NUMBER() OVER (
            PARTITION BY geofence_event_key
            ORDER BY
                occurred_at, event_type, duration_minutes NULLS FIRST, confidence NULLS FIRST, loaded_at, is_stored DESC
        ) = 1

)

SELECT
    {{- columns }}
FROM least
WHERE NOT is_stored
