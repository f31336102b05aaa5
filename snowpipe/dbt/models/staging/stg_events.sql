{{ config(
    materialized='incremental',
    incremental_strategy='restate',
    cluster_by=['event_date', "DATE_TRUNC('hour', received_at)"],
    meta={'restates': 'events'}
) }}

-- depends_on: {{ ref('high_water_mark') }}
-- depends_on: {{ ref('new_events') }}
-- depends_on: {{ ref('touched_events') }}
-- depends_on: {{ ref('typed_events') }}
-- This query does not read the next model, but the tests of this model do. In Airflow, a test runs with the last model
-- that it reads (ops/nightly.py).
-- depends_on: {{ ref('touched_days') }}

{%- set days = replaced_days('may_replace') if is_incremental() %}
{%- set columns %}
        event_key,
        event_id,
        event_type,
        occurred_at,
        event_date,
        app_server_created_at,
        received_at,
        device_id,
        user_id,
        is_live,
        is_replayed,
        latitude,
        longitude,
        location_accuracy_metres,
        metadata,
        content_hash,
        file_name,
        file_row_number,
        scanned_at,
        read_through
{%- endset %}

WITH deliveries AS (

    SELECT
        {{- columns }},
        FALSE AS is_stored
    FROM {{ arrivals() }}
    {% if is_incremental() %}
        WHERE event_key NOT IN (SELECT event_key FROM {{ ref('touched_events') }} WHERE is_known AND NOT may_replace)
        {% if days %}
            UNION ALL
            SELECT
                {{- columns }},
                TRUE AS is_stored
            FROM {{ this }}
            WHERE
                {{ one_of_days('event_date', days) }}
                AND event_key IN (SELECT event_key FROM {{ ref('touched_events') }} WHERE may_replace)
        {% endif %}
    {% endif %}

),

first_deliveries AS (

    SELECT *
    FROM deliveries
    QUALIFY
        ROW_NUMBER() OVER (
            PARTITION BY event_key ORDER BY received_at, file_name, file_row_number, scanned_at, is_stored DESC
        ) = 1

)

SELECT
    {{- columns }}
FROM first_deliveries
WHERE NOT is_stored
