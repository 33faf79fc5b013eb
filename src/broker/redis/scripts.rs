//! The scripts, by what they are for.

use super::board::Script;

/// All that is run in Redis.
pub(super) struct Scripts {
    pub(super) apply: Script,
    pub(super) load: Script,
    pub(super) remove: Script,
    pub(super) fence: Script,
    pub(super) session: Script,
    pub(super) beat: Script,
}

impl Scripts {
    pub(super) fn new() -> Scripts {
        Scripts {
            apply: Script::about_log(include_str!("apply.lua")),
            load: Script::about_log(include_str!("load.lua")),
            remove: Script::new(include_str!("remove.lua")),
            fence: Script::new(include_str!("fence.lua")),
            session: Script::new(include_str!("session.lua")),
            beat: Script::new(include_str!("beat.lua")),
        }
    }
}
