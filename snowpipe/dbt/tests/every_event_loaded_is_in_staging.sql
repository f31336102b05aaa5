SELECT event_key
FROM {{ ref('typed_events') }}
WHERE invalid_code IS NULL AND scanned_at < (SELECT MAX(scanned_at) FROM {{ ref('stg_events') }})
EXCEPT
SELECT event_key FROM {{ ref('stg_events') }}
