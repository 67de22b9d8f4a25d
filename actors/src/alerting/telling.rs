//! Delivering what is to be said: one notice at a time to each destination.

use std::{panic::AssertUnwindSafe, sync::Arc};

use chrono::Utc;
use futures_util::FutureExt;

use super::{AlertingMessage, AlertingState};
use crate::{
    flow::alerts::Due,
    model::{Delivery, Destination, NoticeId},
    notify::DeliveryError,
    telemetry::{Channel, Outcome},
};

impl AlertingState {
    /// Delivers what is due, out of what is saved.
    pub(super) fn deliver(&mut self) {
        while self.delivering.try_join_next().is_some() {}
        if self.is_draining {
            return;
        }
        let Some(known) = &self.known else { return };
        for Due { notice, destination } in known.notices.due(&self.busy, &self.unsaved, Utc::now()) {
            self.busy.insert(destination.clone());
            let (myself, is_ours) = (self.myself.clone(), Arc::clone(&self.arguments.is_ours));
            let (notifier, settings) = (self.arguments.context.settings.notifier.clone(), self.settings());
            self.delivering.spawn(async move {
                // A node that was taken for dead is not to say what another has said since.
                if !is_ours().await {
                    return drop(myself.cast(AlertingMessage::NotTried(destination)));
                }
                let delivery = AssertUnwindSafe(notifier.deliver(&notice, &destination, &settings));
                let panicked = |_| DeliveryError { message: "the delivery panicked".into(), is_permanent: false };
                let outcome = delivery.catch_unwind().await.map_err(panicked).flatten();
                let _ = myself.cast(AlertingMessage::Tried(notice.id, destination, outcome));
            });
        }
    }

    pub(super) fn not_tried(&mut self, destination: &Destination) {
        self.busy.remove(destination);
        self.stop_if_drained();
    }

    pub(super) fn tried(&mut self, id: NoticeId, destination: Destination, outcome: Result<(), DeliveryError>) {
        let Some(known) = &mut self.known else { return };
        match &outcome {
            Ok(()) => tracing::info!(notice = %id, ?destination, "people were told"),
            Err(error) => tracing::warn!(notice = %id, ?destination, %error, "a notice was not delivered"),
        }
        let channel = match destination {
            Destination::Email(_) => Channel::Email,
            Destination::Webhook(_) => Channel::Webhook,
        };
        let failed = outcome.err().map(|error| (error.message, error.is_permanent));
        let ended = known.notices.tried(id, &destination, failed, Utc::now(), fastrand::f64());
        let alerts = self.arguments.context.telemetry.alerts();
        match ended {
            Some(Delivery::Delivered { .. }) => alerts.delivered(channel, Outcome::Delivered),
            Some(Delivery::Pending { .. }) => alerts.delivered(channel, Outcome::Failed),
            Some(Delivery::GivenUp { .. }) => alerts.delivered(channel, Outcome::GivenUp),
            None => {}
        }
        self.tried.insert(destination, id);
        self.look();
    }
}
