{{ config(materialized='view') }}

WITH deliveries AS (

    SELECT
        event_key,
        event_id,
        content_hash,
        payload,
        received_at,
        file_name,
        file_row_number
    FROM {{ ref('typed_events') }}
    WHERE invalid_code IS NULL

),

other_contents AS (

    SELECT
        deliveries.*,
        kept.content_hash AS kept_content_hash,
        kept.file_name AS kept_file_name,
        kept.file_row_number AS kept_file_row_number
    FROM deliveries
    INNER JOIN {{ ref('stg_events') }} AS kept ON deliveries.event_key = kept.event_key
    WHERE deliveries.content_hash <> kept.content_hash

),

first_delivery AS (

    SELECT
        *,
        COUNT(*) OVER (PARTITION BY event_key, content_hash) AS deliveries,
        ROW_NUMBER() OVER (
            PARTITION BY event_key, content_hash ORDER BY received_at, file_name, file_row_number
        ) AS delivery_number
    FROM other_contents

),

-- A device that sends ever new contents of one id makes no more rows than this: contract/events.py.
contents AS (

    SELECT * FROM first_delivery
    WHERE delivery_number = 1
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
