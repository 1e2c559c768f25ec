//! What clients of the control socket send.

use plimsoll_core::agent::settings::{Settings, set};
use plimsoll_core::board::Faults;
use plimsoll_core::json::Json;
use plimsoll_core::status::{REQUEST_BYTES_MAX, Request};

/// Whatever is sent, it is understood or refused; settings are taken as a whole
/// and within their ranges, or not at all.
pub(super) fn check(data: &[u8]) {
    let parsed = Request::parse(data);
    assert!(data.len() <= REQUEST_BYTES_MAX || parsed.is_err());
    let (mut request, mut faults) = (data.to_vec(), Faults::default());
    let mut settings = Settings::default();
    if set(&mut settings, &mut request, &mut faults) {
        assert!(faults.is_empty());
        let shown = Json(&settings).to_string();
        serde_json::from_str::<serde_json::Value>(&shown).expect("what is shown is JSON");
        for rule in settings.rules() {
            assert!((1..=604_800).contains(&rule.period_secs) && rule.swappiness_max <= 200);
        }
        assert!(settings.tops("/qm").all(|top| top.starts_with('/')));
    } else {
        assert!(!faults.is_empty() && settings == Settings::default());
    }
}
