{# delete+insert leaves the visits of a (device, fence) that has none any more: possible only when another
   content of the same event id came to count (an enter that turned out to be an exit, or to be
   less sure than `min_confidence`). #}
{% macro drop_ghost_visits() %}
    {% if is_incremental() %}
        DELETE FROM {{ this }}
        WHERE device_fence_key NOT IN (
            SELECT device_fence_key
            FROM {{ ref('stg_geofence_events') }}
            WHERE kind = 'enter' AND COALESCE(confidence, 3) >= {{ var('min_confidence') }}
        )
    {% endif %}
{% endmacro %}
