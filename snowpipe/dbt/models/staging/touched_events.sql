-- The ledger's rows of the events of this run: where their rows may be in the other models.
{{ config(materialized='table') }}

-- depends_on: {{ ref('high_water_mark') }}

WITH known AS (

    SELECT
        event_key,
        content_hash,
        event_date,
        received_hour,
        read_through
    FROM {{ ref('event_ledger') }}
    WHERE event_key IN (SELECT event_key FROM {{ ref('new_events') }})

),

counted AS (

    SELECT
        *,
        MIN(content_hash) OVER (PARTITION BY event_key) <> MAX(content_hash) OVER (PARTITION BY event_key)
            AS has_conflict,
        MIN(read_through) OVER (PARTITION BY event_key, content_hash) > {{ mark('completed_through') }}
            AS is_new_content
    FROM known

)

SELECT
    event_key,
    content_hash,
    event_date,
    received_hour,
    has_conflict,
    is_new_content,
    -- Whether the content that counts may have changed; a repetition does not change it.
    MAX(IFF(has_conflict OR is_new_content, 1, 0)) OVER (PARTITION BY event_key) = 1 AS is_changed
FROM counted
