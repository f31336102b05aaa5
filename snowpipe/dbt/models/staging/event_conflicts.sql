{{ config(materialized='incremental', incremental_strategy='restate', meta={'restates': 'conflicts'}) }}

-- depends_on: {{ ref('high_water_mark') }}
-- depends_on: {{ ref('touched_events') }}
-- depends_on: {{ ref('event_ledger') }}
-- This query does not read the next model, but the tests of this model do. In Airflow, a test runs with the last model
-- that it reads (ops/nightly.py).
-- depends_on: {{ ref('stg_events') }}

WITH contradicted AS (

    SELECT event_key
    FROM {{ ref('touched_events') if is_incremental() else ref('event_ledger') }}
    GROUP BY event_key
    HAVING MIN(content_hash) <> MAX(content_hash)

),

deliveries AS (

    SELECT
        event_key,
        event_id,
        content_hash,
        payload,
        received_at,
        file_name,
        file_row_number
    FROM {{ ref('typed_events') }}
    WHERE
        invalid_code IS NULL
        AND scanned_at <= {{ mark('scanned_through') }}
        AND event_key IN (SELECT event_key FROM contradicted)
        {% if is_incremental() %}
            AND {{ in_hours_of('received_at', ref('touched_events'), 'received_hour', 'has_conflict') }}
        {% endif %}

),

numbered AS (

    SELECT
        *,
        FIRST_VALUE(content_hash) OVER (
            PARTITION BY event_key ORDER BY received_at, file_name, file_row_number
        ) AS kept_content_hash,
        FIRST_VALUE(file_name) OVER (
            PARTITION BY event_key ORDER BY received_at, file_name, file_row_number
        ) AS kept_file_name,
        FIRST_VALUE(file_row_number) OVER (
            PARTITION BY event_key ORDER BY received_at, file_name, file_row_number
        ) AS kept_file_row_number,
        COUNT(*) OVER (PARTITION BY event_key, content_hash) AS deliveries,
        ROW_NUMBER() OVER (
            PARTITION BY event_key, content_hash ORDER BY received_at, file_name, file_row_number
        ) AS delivery_number
    FROM deliveries

),

-- Limits the number of rows for a device that keeps sending new content with the same id (contract/event_limits.py).
contents AS (

    SELECT * FROM numbered
    WHERE delivery_number = 1 AND content_hash <> kept_content_hash
    QUALIFY
        ROW_NUMBER() OVER (PARTITION BY event_key ORDER BY received_at, file_name, file_row_number)
        < {{ var('max_contents_per_event') }}

)

SELECT
    MD5(event_key || content_hash) AS conflict_key,
    event_key,
    event_id,
    payload,
    content_hash,
    received_at,
    file_name,
    file_row_number,
    deliveries,
    kept_content_hash,
    kept_file_name,
    kept_file_row_number
FROM contents
