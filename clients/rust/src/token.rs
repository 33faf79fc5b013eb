//! A token, or where to get one.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use handover_protocol::wire::Secret;

/// What shows the gateway who one is: a text, or somebody to ask for one.
///
/// Whoever is asked is so before every connection that is made, and when a token is about to end.
///
/// ```
/// # use handover_client::{Options, Token};
/// # async fn fetch() -> Result<String, std::io::Error> { Ok(String::new()) }
/// let options = Options { token: Some(Token::from_fn(fetch)), ..Options::default() };
/// let options = Options { token: Some("a token".into()), ..Options::default() };
/// ```
#[derive(Clone)]
pub struct Token(Kind);

#[derive(Clone)]
enum Kind {
    Fixed(Secret),
    Asked(Arc<dyn Fn() -> Asking + Send + Sync>),
}

/// A token on its way; or why there is none.
pub(crate) type Asking = Pin<Box<dyn Future<Output = Result<Secret, String>> + Send>>;

impl Token {
    /// Asks `source` for a token whenever one is needed.
    pub fn from_fn<F, A, E>(source: F) -> Self
    where
        F: Fn() -> A + Send + Sync + 'static,
        A: Future<Output = Result<String, E>> + Send + 'static,
        E: fmt::Display,
    {
        Token(Kind::Asked(Arc::new(move || {
            let asked = source();
            Box::pin(async { asked.await.map(Secret::new).map_err(|error| error.to_string()) })
        })))
    }

    /// The text, if it is one.
    pub(crate) fn fixed(&self) -> Option<Secret> {
        match &self.0 {
            Kind::Fixed(secret) => Some(secret.clone()),
            Kind::Asked(_) => None,
        }
    }

    /// A fresh one, if there is somebody to ask.
    pub(crate) fn ask(&self) -> Option<Asking> {
        match &self.0 {
            Kind::Fixed(_) => None,
            Kind::Asked(source) => Some(source()),
        }
    }
}

impl From<String> for Token {
    fn from(text: String) -> Self {
        Token(Kind::Fixed(Secret::new(text)))
    }
}

impl From<&str> for Token {
    fn from(text: &str) -> Self {
        text.to_owned().into()
    }
}

/// Without the token.
impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Kind::Fixed(_) => f.write_str("Token(..)"),
            Kind::Asked(_) => f.write_str("Token(asked for)"),
        }
    }
}
