//! What can go wrong with NATS, and whose fault it is.

use async_nats::{
    ConnectError,
    jetstream::{
        self, ErrorCode,
        context::{PublishError, PublishErrorKind},
    },
};

/// What can go wrong with NATS.
#[derive(Debug, thiserror::Error)]
pub enum JetStreamError {
    /// The settings can't be used.
    #[error("{0}")]
    Settings(String),
    /// No server could be connected to, or it does not let us in.
    #[error("no connection to NATS at {servers}: {error}")]
    Connect {
        /// Those that were tried.
        servers: String,
        /// What the last one said.
        #[source]
        error: ConnectError,
    },
    /// The server is older than what is needed of it.
    #[error("the NATS server is of version {found}, and 2.11 or later is needed: upgrade it")]
    OldServer {
        /// What it is.
        found: String,
    },
    /// The servers or the account have no JetStream, or it does not begin.
    #[error("JetStream can't be used: enable it in the NATS server and for the account ({0})")]
    NotEnabled(#[source] Box<JetStreamError>),
    /// The server takes no message as large as the largest record.
    #[error("the NATS server takes messages of {found} bytes, and {needed} are needed: set max_payload to 8MB")]
    SmallPayload {
        /// What it takes.
        found: usize,
        /// What is needed.
        needed: usize,
    },
    /// There was no answer, or none that can be read. It may come the next time.
    #[error("NATS gave no answer to {what}: {error}")]
    Unanswered {
        /// What was asked.
        what: String,
        /// Whether nobody is there who could answer, as when a stream has no leader.
        nobody: bool,
        /// Why.
        #[source]
        error: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The server answered with an error.
    #[error("NATS refused {what}: {error}")]
    Refused {
        /// What was asked.
        what: String,
        /// What it said.
        #[source]
        error: jetstream::Error,
    },
    /// A stream is not the one that it was, or has gone back to before what was read of it.
    #[error("{0}")]
    Replaced(String),
}

/// What the server says while another message is on its way that may become the last of the subject, or may not.
const UNDECIDED: ErrorCode = ErrorCode::STREAM_WRONG_LAST_SEQUENCE_CONSTANT;

/// What the server says while it is still at work on the same, or on too much.
const BUSY: [ErrorCode; 4] = [
    UNDECIDED,
    ErrorCode::STREAM_DUPLICATE_MESSAGE_CONFLICT,
    ErrorCode::STREAM_EXPECTED_LAST_SEQ_PER_SUBJECT_NOT_READY,
    ErrorCode::STREAM_TOO_MANY_REQUESTS,
];

impl JetStreamError {
    pub(super) fn unanswered(what: &str, error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Unanswered { what: what.into(), nobody: false, error: error.into() }
    }

    pub(super) fn nobody(what: &str, error: async_nats::RequestError) -> Self {
        Self::Unanswered { what: what.into(), nobody: true, error: error.into() }
    }

    /// What became of a message that was published to `subject`.
    pub(crate) fn unpublished(subject: &str, error: PublishError) -> Self {
        let refusal = std::error::Error::source(&error).and_then(|source| source.downcast_ref::<jetstream::Error>());
        match refusal.cloned() {
            Some(error) => Self::Refused { what: subject.into(), error },
            None => {
                let nobody = error.kind() == PublishErrorKind::StreamNotFound;
                Self::Unanswered { what: subject.into(), nobody, error: error.into() }
            }
        }
    }

    pub(crate) fn took_too_long(what: &str) -> Self {
        Self::unanswered(what, "it took too long")
    }

    /// What the server said, if it said no.
    pub(crate) fn code(&self) -> Option<ErrorCode> {
        match self {
            Self::Refused { error, .. } => Some(error.error_code()),
            _ => None,
        }
    }

    /// Whether the same again may have another outcome.
    pub(crate) fn may_pass(&self) -> bool {
        match self {
            Self::Unanswered { .. } => true,
            // Those in the 500s are about the state of the servers: no leader, not enough peers, not ready.
            Self::Refused { error, .. } => {
                let is_of_servers = error.code() >= 500 && !self.is_full() && !self.is_not_enabled();
                is_of_servers || BUSY.contains(&error.error_code())
            }
            _ => false,
        }
    }

    /// Whether there is no room for more.
    pub(crate) fn is_full(&self) -> bool {
        const FULL: [ErrorCode; 5] = [
            ErrorCode::INSUFFICIENT_RESOURCES,
            ErrorCode::STORAGE_RESOURCES_EXCEEDED,
            ErrorCode::MEMORY_RESOURCES_EXCEEDED,
            ErrorCode::STREAM_MAX_STREAM_BYTES_EXCEEDED,
            ErrorCode::STREAM_STORE_FAILED,
        ];
        self.code().is_some_and(|code| FULL.contains(&code))
    }

    pub(super) fn is_not_enabled(&self) -> bool {
        let codes = [ErrorCode::JETSTREAM_NOT_ENABLED, ErrorCode::JETSTREAM_NOT_ENABLED_FOR_ACCOUNT];
        self.code().is_some_and(|code| codes.contains(&code))
    }

    /// Whether what was asked for is a stream that is not there.
    pub(crate) fn is_no_stream(&self) -> bool {
        self.code() == Some(ErrorCode::STREAM_NOT_FOUND)
    }

    /// Whether another stream has the name already, or the same one with another configuration.
    pub(crate) fn is_name_taken(&self) -> bool {
        self.code() == Some(ErrorCode::STREAM_NAME_EXIST)
    }

    /// Whether nobody was there who could answer, as when a stream is gone or has no leader.
    pub(crate) fn is_nobody_there(&self) -> bool {
        matches!(self, Self::Unanswered { nobody: true, .. })
    }

    /// Whether there is no message such as was asked for.
    pub(crate) fn is_no_message(&self) -> bool {
        self.code() == Some(ErrorCode::NO_MESSAGE_FOUND)
    }

    /// Whether the last message of a subject is another one than was expected.
    pub(crate) fn is_conflict(&self) -> bool {
        self.code() == Some(ErrorCode::STREAM_WRONG_LAST_SEQUENCE)
    }

    /// Whether it is not decided yet which message will be the last of a subject.
    pub(crate) fn is_undecided(&self) -> bool {
        self.code() == Some(UNDECIDED)
    }

    /// Whether the server has said no, and will say so again until somebody changes its settings or what is there.
    pub(crate) fn is_refusal(&self) -> bool {
        let is_of_question = matches!(self, Self::Refused { error, .. } if (400..500).contains(&error.code()));
        is_of_question && !self.may_pass() && !self.is_no_stream()
    }
}
