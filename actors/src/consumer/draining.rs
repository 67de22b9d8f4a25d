//! Draining: nothing more is read, and what is in flight is finished, within a deadline.

use super::{
    ConsumerState, Happening, Mode,
    pipeline::{Pipeline, Then},
};

impl ConsumerState {
    pub(super) fn pipeline(&mut self) -> Option<&mut Pipeline> {
        match &mut self.mode {
            Mode::Running(pipeline) => Some(pipeline),
            _ => None,
        }
    }

    pub(super) fn drain(&mut self, then: Then) {
        match self.pipeline() {
            Some(pipeline) => {
                pipeline.drain(then);
                let deadline = self.arguments.context.settings.drain_deadline;
                self.hear_after(deadline, Happening::DrainDeadline);
                self.advance();
            }
            None if then == Then::Stop => self.finish(),
            None => {}
        }
    }

    /// Whether nothing comes after.
    pub(super) fn is_ending(&self) -> bool {
        match &self.mode {
            Mode::Running(pipeline) => pipeline.drains_to() == Some(Then::Stop),
            mode => matches!(mode, Mode::Finishing),
        }
    }

    pub(super) fn is_draining(&self) -> bool {
        matches!(&self.mode, Mode::Running(pipeline) if pipeline.drains_to().is_some())
    }

    pub(super) fn end_drain(&mut self) {
        match self.pipeline().and_then(|pipeline| pipeline.drains_to()) {
            Some(Then::Stop) => self.finish(),
            // Resumed while it drained, it begins again.
            Some(Then::Pause) => self.begin(),
            None => {}
        }
    }
}
