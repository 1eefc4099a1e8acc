//! CEL expressions over a message: `when` filters and `transform`s, compiled and checked when they are loaded.
//!
//! Invariants: an expression that compiled evaluates within bounds whatever the message holds (its source in length and
//! depth, its run in steps, its result in bytes); evaluating never panics, and its errors never quote the message.

use std::ops::Range;
use std::sync::{Arc, LazyLock};

use cel::common::ast::{CallExpr, Expr, IdedExpr};
use cel::common::types::{CelString, DYN_TYPE, INT_TYPE};
use cel::common::value::CowVal;
use cel::context::VariableResolver;
use cel::objects::Value;
use cel::{Context, Env, ExecutionError};

use super::analysis::{self, Findings, Problem};
use super::body::Want;
use super::facts::{BYTES_MAX, Facts, VARIABLES, WORK_MAX};
use super::instrument::instrument;
use super::regular::{self, Regular};
use super::tree::children;
use super::types::Kind;
use super::{syntax, transform};

/// Longest expression, in bytes.
pub const EXPRESSION_BYTES_MAX: usize = 8 * 1024;

/// How deep the parts of an expression may stand in one another; `a + b + c` is three deep. The interpreter takes about
/// 2 KiB of stack for each.
pub const EXPRESSION_DEPTH_MAX: usize = 100;

/// The parser and whatever walks an expression of unknown depth recurse: this is enough for anything that
/// [`EXPRESSION_BYTES_MAX`] can express. Only touched memory counts.
const COMPILER_STACK_BYTES: usize = 64 << 20;

/// The function that a transform ends with: what it evaluated to, and how long a body may be, to the bodies of messages.
///
/// The work is done inside the evaluation because the interpreter's values can't leave it without being copied.
const BODIES: &str = "@bodies";

/// CEL's standard library and string functions. Which of them may be called is up to [`super::types`].
static ENVIRONMENT: LazyLock<Arc<Env>> = LazyLock::new(|| {
    let mut environment = Env::stdlib();
    let strings = environment.add_extension(cel::extensions::strings);
    debug_assert!(strings.is_ok(), "the string functions clash with the standard library: {strings:?}");
    let matches =
        environment.add_overload(regular::MATCHES, regular::MATCHES, vec![DYN_TYPE, DYN_TYPE], regular::matches);
    debug_assert!(matches.is_ok(), "names that start with '@' are ours: {matches:?}");
    let bodies = environment.add_overload(BODIES, BODIES, vec![DYN_TYPE, INT_TYPE], transform::bodies);
    debug_assert!(bodies.is_ok(), "names that start with '@' are ours: {bodies:?}");
    Arc::new(environment)
});

/// A compiled expression.
pub(crate) struct Expression {
    source: Box<str>,
    tree: IdedExpr,
    kind: Kind,
    elements: Vec<(Range<usize>, Kind)>,
    want: Option<Want>,
    regulars: Vec<Regular>,
}

/// What an expression finds its variables in: the message, and what was compiled beforehand.
struct Scope<'x, 'm> {
    facts: &'x Facts<'m>,
    regulars: &'x [Regular],
}

impl VariableResolver for Scope<'_, '_> {
    fn resolve<'b>(&'b self, variable: &str) -> Option<CowVal<'b, 'b>> {
        if let Some(at) = regular::number(variable) {
            return self.regulars.get(at).map(|regular| CowVal::Borrowed(regular));
        }
        self.facts.resolve(variable)
    }
}

/// What evaluating came to.
pub(crate) enum Evaluated {
    /// A value, copied.
    Value(Value),
    /// Something that the expression looks at is not there: a field, an element, an attribute.
    Missing(String),
    /// It can't be evaluated on this message, and why.
    Failed(String),
}

impl Expression {
    /// The expression that `source` spells.
    ///
    /// # Errors
    /// Every mistake that can be seen without a message, at least one.
    pub(crate) fn new(source: &str) -> Result<Self, Vec<Problem>> {
        let whole =
            |message: String, help: &str| vec![Problem { span: 0..source.len(), message, help: Some(help.into()) }];
        if source.trim().is_empty() {
            return Err(whole("the expression is empty".into(), "leave the key out"));
        }
        if source.len() > EXPRESSION_BYTES_MAX {
            let message =
                format!("the expression has {} bytes; at most {EXPRESSION_BYTES_MAX} are allowed", source.len());
            return Err(whole(message, "do this in a component"));
        }
        let compiled = std::thread::scope(|scope| {
            let compiler = std::thread::Builder::new().name("cel".into()).stack_size(COMPILER_STACK_BYTES);
            let compiler = compiler.spawn_scoped(scope, || compile(source));
            compiler.map(|thread| {
                thread.join().unwrap_or_else(|_| Err(whole("the expression can't be read".into(), "simplify it")))
            })
        });
        let (tree, findings) = compiled.unwrap_or_else(|error| {
            Err(whole(format!("no thread to compile the expression with: {error}"), "try again"))
        })?;
        if !findings.problems.is_empty() {
            return Err(findings.problems);
        }
        let Findings { kind, elements, want, .. } = findings;
        let (tree, regulars) = instrument(tree);
        Ok(Self { source: source.into(), tree, kind, elements, want, regulars })
    }

    /// What it evaluates to, as far as that is known.
    pub(crate) fn kind(&self) -> Kind {
        self.kind
    }

    /// Place and kind of each element, if it is a list in so many words.
    pub(crate) fn elements(&self) -> &[(Range<usize>, Kind)] {
        &self.elements
    }

    /// What it looks at in `data`.
    pub(crate) fn want(&self) -> Option<&Want> {
        self.want.as_ref()
    }

    /// The expression whose value is the bodies of the messages that this one's value stands for.
    pub(crate) fn into_bodies(mut self) -> Self {
        let limit = IdedExpr { id: self.tree.id, expr: Expr::Ident(BYTES_MAX.to_owned()) };
        let tree = std::mem::take(&mut self.tree);
        let id = tree.id;
        let call = CallExpr { func_name: BODIES.to_owned(), target: None, args: vec![tree, limit] };
        self.tree = IdedExpr { id, expr: Expr::Call(call) };
        self
    }

    /// Its value on the message of `facts`.
    pub(crate) fn evaluate(&self, facts: &Facts<'_>) -> Evaluated {
        facts.restart();
        let scope = Scope { facts, regulars: &self.regulars };
        let mut context = Context::with_env(Arc::clone(&ENVIRONMENT));
        context.set_variable_resolver(&scope);
        // `resolve` and not the cheaper `resolve_val`, which is always inlined: in a debug build it would take 50 KiB of
        // stack for each level of an expression.
        match Value::resolve(&self.tree, &context) {
            Ok(value) => Evaluated::Value(value),
            Err(error) => explain(&error, &self.source, facts),
        }
    }
}

impl std::fmt::Debug for Expression {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", self.source)
    }
}

/// What [`BODIES`] fails with.
pub(crate) fn bodies_error(reason: String) -> ExecutionError {
    ExecutionError::FunctionError { function: BODIES.to_owned(), message: reason }
}

/// The text of `value` as CEL's own function `string()` writes it.
pub(crate) fn to_text(value: CowVal<'_, '_>) -> Option<String> {
    let arguments = vec![value];
    let convert = ENVIRONMENT.find_overload("string", &arguments)?;
    convert(arguments).ok()?.downcast_ref::<CelString<'_>>().map(|text| text.inner().to_owned())
}

fn compile(source: &str) -> Result<(IdedExpr, Findings), Vec<Problem>> {
    let program = ENVIRONMENT.compile(source).map_err(|errors| vec![syntax::explain(source, &errors)])?;
    let tree = program.expression();
    if depth(tree) > EXPRESSION_DEPTH_MAX {
        return Err(vec![Problem {
            span: 0..source.len(),
            message: format!("the expression is nested more than {EXPRESSION_DEPTH_MAX} deep"),
            help: Some("do this in a component".into()),
        }]);
    }
    let findings = analysis::analyse(tree, program.source_info());
    Ok((tree.clone(), findings))
}

fn depth(node: &IdedExpr) -> usize {
    1 + children(node).into_iter().map(depth).max().unwrap_or(0)
}

/// Sorts errors of the interpreter. What it says is not passed on: it quotes values, of any length, out of the message.
fn explain(error: &ExecutionError, source: &str, facts: &Facts<'_>) -> Evaluated {
    use ExecutionError as E;
    if facts.is_exhausted() {
        return Evaluated::Failed(format!("it takes more than {WORK_MAX} steps on this message"));
    }
    if let Some(reason) = facts.unreadable() {
        return Evaluated::Failed(reason.to_owned());
    }
    match error {
        E::NoSuchKey(key) if source.contains(key.as_str()) => Evaluated::Missing(format!("there is no '{key}'")),
        E::NoSuchKey(_) => Evaluated::Missing("there is no field of the name that it computes".into()),
        E::UndeclaredReference(name) if VARIABLES.contains(&name.as_str()) => {
            Evaluated::Missing(format!("the message has no '{name}'"))
        }
        E::IndexOutOfBounds(_) => Evaluated::Missing("the index is out of bounds".into()),
        E::NoSuchOverload(call) => {
            let types = call.argument_types();
            let looks_into = matches!(call.function(), "_._" | "_[_]");
            match types {
                [whole, ..] if looks_into && whole == "null_type" => {
                    Evaluated::Missing("what it looks into is null".into())
                }
                [whole, ..] if looks_into => Evaluated::Failed(cannot_look_into(whole, facts)),
                types => Evaluated::Failed(format!(
                    "'{}' can't be applied to {}",
                    plain(call.function()),
                    types.join(" and ")
                )),
            }
        }
        E::UnsupportedBinaryOperator(operator, left, right) => {
            let symbol = match *operator {
                "add" => "+",
                "sub" => "-",
                "mul" => "*",
                "div" => "/",
                "rem" => "%",
                other => other,
            };
            Evaluated::Failed(format!("'{symbol}' can't be applied to {} and {}", type_name(left), type_name(right)))
        }
        E::ValuesNotComparable(left, right) => {
            Evaluated::Failed(format!("{} and {} can't be compared", type_name(left), type_name(right)))
        }
        E::UnexpectedType { got, want } => Evaluated::Failed(format!("{want} was expected, and this is {got}")),
        E::FunctionError { function, message } if function == BODIES => Evaluated::Failed(message.clone()),
        E::FunctionError { function, .. } => {
            Evaluated::Failed(format!("{function}() can't be applied to what it was given"))
        }
        E::DivisionByZero(_) | E::RemainderByZero(_) => Evaluated::Failed("division by zero".into()),
        E::Overflow(..) => Evaluated::Failed("a number is out of range".into()),
        E::DuplicateKey(_) => Evaluated::Failed("a map has the same key twice".into()),
        E::UnsupportedKeyType(_) => Evaluated::Failed("a map has a key that is no string, number or bool".into()),
        _ => Evaluated::Failed("it can't be evaluated".into()),
    }
}

/// Why nothing can be looked up in a value of type `kind`. Mostly that is `data`, where a producer left out the content type.
fn cannot_look_into(kind: &str, facts: &Facts<'_>) -> String {
    const SHOWN_CHARS_MAX: usize = 80;
    match facts.opaque() {
        Some(opaque) if opaque.kind == kind => {
            let shown: String = opaque.content_type.chars().take(SHOWN_CHARS_MAX).collect();
            let kind = if kind == "string" { "a string" } else { kind };
            format!(
                "`data` is {kind}, because the content type is '{shown}'; publish with content-type: application/json"
            )
        }
        _ => format!("it looks for a field or element of a {kind}"),
    }
}

/// The type of `value` by the name that CEL gives it.
pub(crate) fn type_name(value: &Value) -> String {
    match value {
        Value::Float(_) => "double".to_owned(),
        other => other.type_of().to_string(),
    }
}

/// `+` for `_+_`.
fn plain(function: &str) -> &str {
    super::types::symbol(function).unwrap_or(function)
}
