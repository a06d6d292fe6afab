//! The command line of `epp`: the acceptance vectors of runtime.md §9.1 and the table of §1.2, run against the
//! real binary. What parses and is accepted ends at the configuration, which does not exist here.

use std::process::{Command, Output};

fn run(args: &[&str], env: &[(&str, &str)]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_epp"))
        .args(args)
        .env_clear()
        .envs(env.iter().copied())
        .output()
        .unwrap()
}

fn stderr(output: &Output) -> String {
    assert!(output.stdout.is_empty(), "nothing goes to stdout");
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// A configuration file that is not there: a command line that gets this far was accepted.
const MISSING: &str = "--config-file=/nonexistent/config.yaml";
const ACCEPTED: &str = "cannot read the configuration file /nonexistent/config.yaml (--config-file)";
const IDENTITY: &str = "error: either pool-name or endpoint-selector must be set";

#[test]
fn every_command_line_ends_with_its_code_and_text() {
    let rows: [(&str, i32, &str); 43] = [
        // Acceptance vectors.
        (
            "--endpoint-selector app=x --endpoint-target-ports 8080 --endpoint-target-ports 9090",
            1,
            ACCEPTED,
        ),
        (
            "--endpoint-selector app=x --endpoint-target-ports 8080,9090,80",
            1,
            ACCEPTED,
        ),
        (
            "--endpoint-selector app=x --endpoint-target-ports -1",
            1,
            "invalid port number -1 in \"endpoint-target-ports\"",
        ),
        (
            "--endpoint-selector app=x --endpoint-target-ports 65536",
            1,
            "invalid port number 65536 in \"endpoint-target-ports\"",
        ),
        (
            "--endpoint-target-ports 80,a",
            2,
            "strconv.Atoi: parsing \"a\": invalid syntax",
        ),
        (
            "--endpoint-target-ports=",
            2,
            "invalid argument \"\" for \"--endpoint-target-ports\" flag",
        ),
        (
            "--pool-name p --endpoint-selector app=x --endpoint-target-ports 80",
            1,
            IDENTITY,
        ),
        (
            "--pool-name p --config-text a",
            1,
            "both the \"configText\" and \"configFile\" flags can not be set at the same time",
        ),
        (
            "--pool-name p --model-server-metrics-scheme HTTP",
            1,
            "unexpected \"HTTP\" value for \"model-server-metrics-scheme\" flag, it can only be set to 'http' or 'https'",
        ),
        (
            "--pool-name p --secure-serving false",
            1,
            "warning: --secure-serving is set to true; the word \"false\" after it is ignored",
        ),
        (
            "--pool-name p --refresh-metrics-interval 50",
            2,
            "time: missing unit in duration \"50\"",
        ),
        ("--pool-name p --zap-log-level 0", 2, "invalid log level \"0\""),
        ("--pool-name p --zap-log-level -1", 2, "invalid log level \"-1\""),
        ("--pool-name p --zap-log-level warn", 1, ACCEPTED),
        (
            "--pool-name p --lora-info-metric=",
            1,
            "flag \"lora-info-metric\" is deprecated and cannot be used; configure metrics via engineConfigs in EndpointPickerConfig instead",
        ),
        (
            "--pool-name p --lora-info-metric= --compat-version v0.5.0",
            1,
            ACCEPTED,
        ),
        // Syntax.
        ("--foo", 2, "unknown flag: --foo"),
        ("-grpc-port=1", 2, "unknown shorthand flag: 'g' in -grpc-port=1"),
        ("--kubeconfig=/x", 2, "unknown flag: --kubeconfig"),
        ("--grpc-port", 2, "flag needs an argument: --grpc-port"),
        ("-v", 2, "flag needs an argument: 'v' in -v"),
        (
            "--grpc-port x",
            2,
            "invalid argument \"x\" for \"--grpc-port\" flag: strconv.ParseInt: parsing \"x\": invalid syntax",
        ),
        ("-vvv", 2, "invalid argument \"vv\" for \"-v, --v\" flag"),
        ("---x", 2, "bad flag syntax: ---x"),
        ("--=x", 2, "bad flag syntax: --=x"),
        (
            "--tracing=yes",
            2,
            "strconv.ParseBool: parsing \"yes\": invalid syntax",
        ),
        (
            "--pool-name p -v3 -v=3 -v 3 --v=3 --v 3 stray - words",
            1,
            ACCEPTED,
        ),
        (
            "--pool-name p --grpc-port 0x232a --grpc-health-port=0b11",
            1,
            ACCEPTED,
        ),
        ("--pool-name p -- --foo", 1, ACCEPTED),
        (
            "--pool-name p --model-server-metrics-port=8000",
            1,
            "Flag --model-server-metrics-port has been deprecated, This flag is deprecated and will be removed in a future release.",
        ),
        (
            "--pool-name p --cache-info-metric=x",
            1,
            "Flag --cache-info-metric has been deprecated, use engineConfigs in EndpointPickerConfig instead",
        ),
        // Refused, beyond the reference (decision 4).
        (
            "--pool-name p --grpc-port 0",
            1,
            "invalid port number 0 for flag \"grpc-port\"",
        ),
        (
            "--pool-name p --metrics-port 9002",
            1,
            "flags \"grpc-port\" and \"metrics-port\" both ask for port 9002",
        ),
        (
            "--pool-name p --refresh-metrics-interval=0s",
            1,
            "flag \"refresh-metrics-interval\" must be above 0, not 0s",
        ),
        (
            "--pool-name p --pool-group=example.com",
            1,
            "unexpected \"example.com\" value for \"pool-group\" flag",
        ),
        (
            "--endpoint-selector app==x --endpoint-target-ports 80",
            1,
            "invalid selector: [app==x]",
        ),
        (
            "--endpoint-selector app=x",
            1,
            "flag \"endpoint-target-ports\" should have length from 1 to 8",
        ),
        (
            "--endpoint-selector app=x --endpoint-target-ports 0",
            1,
            "invalid port number 0 in \"endpoint-target-ports\"",
        ),
        (
            "--pool-name p --grpc-bind-address nowhere",
            1,
            "flag \"grpc-bind-address\" must be an IP address or empty",
        ),
        (
            "--pool-name p --bind-address nowhere",
            1,
            "flag \"bind-address\" must be an IP address",
        ),
        (
            "--pool-name p --compat-version v9",
            1,
            "unexpected \"v9\" value for \"compat-version\" flag",
        ),
        (
            "--pool-name p --max-request-body-size 0",
            1,
            "flag \"max-request-body-size\" must be a number of bytes above 0",
        ),
        (
            "--pool-name p --zap-encoder xml",
            2,
            "invalid encoder value \"xml\"",
        ),
    ];
    for (line, code, text) in rows {
        let mut args: Vec<&str> = vec![MISSING];
        args.extend(line.split(' '));
        let output = run(&args, &[]);
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(code), "{line}: {said}");
        assert!(said.contains(text), "{line}:\n{said}");
        assert_eq!(
            code == 2,
            said.contains("Usage of "),
            "{line}: usage goes with exit code 2 only"
        );
    }
}

#[test]
fn without_a_configuration_the_identity_is_required_at_once() {
    for line in [
        "",
        "--endpoint-selector app=x --pool-name p --endpoint-target-ports 1",
    ] {
        let output = run(
            &line.split(' ').filter(|w| !w.is_empty()).collect::<Vec<_>>(),
            &[],
        );
        assert_eq!(
            (output.status.code(), stderr(&output).contains(IDENTITY)),
            (Some(1), true),
            "{line}"
        );
    }
}

#[test]
fn every_mistake_is_reported_at_once() {
    let flags = [
        "--grpc-port=0",
        "--drain-timeout=-1s",
        "--threads=-1",
        "--secure-serving=false",
        "--client-ca-file=ca.crt",
    ];
    let output = run(&flags, &[]);
    let said = stderr(&output);
    for text in [
        "either pool-name",
        "grpc-port",
        "drain-timeout",
        "threads",
        "flag \"client-ca-file\" needs TLS: drop it, or drop --secure-serving=false",
    ] {
        assert!(said.contains(text), "{text}:\n{said}");
    }
}

#[test]
fn help_is_grouped_on_stderr_and_hides_deprecated_flags() {
    for flag in ["--help", "-h"] {
        let output = run(&[flag], &[]);
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(0));
        assert!(
            said.starts_with("Usage of ") && said.contains("-v, --v int"),
            "{said}"
        );
        assert!(
            said.contains("(default 9002)") && !said.contains("lora-info-metric"),
            "{said}"
        );
    }
}

#[test]
fn deprecated_variables_work_and_are_warned_about_once() {
    let env = [
        ("ENABLE_EXPERIMENTAL_DATALAYER_V2", "true"),
        ("SD_QUEUE_DEPTH_THRESHOLD", "zero"),
    ];
    let said = stderr(&run(&["--pool-name=p", MISSING], &env));
    assert_eq!(
        said.matches("ENABLE_EXPERIMENTAL_DATALAYER_V2 is deprecated")
            .count(),
        1,
        "{said}"
    );
    assert!(
        said.contains("SD_QUEUE_DEPTH_THRESHOLD=\"zero\" is not a usable value: using the default 5"),
        "{said}"
    );
}

#[test]
fn the_flags_page_lists_every_flag_with_its_default() {
    let page = std::fs::read_to_string(crate::support::epp::in_package("docs/user-guide/flags.md")).unwrap();
    for flag in endpoint_picker::app::epp::FLAGS {
        let row = page
            .lines()
            .find(|l| l.starts_with(&format!("| `--{}` |", flag.name)));
        let row = row.unwrap_or_else(|| panic!("flags.md has no row for --{}", flag.name));
        let default = if flag.default.is_empty() {
            "| |".to_owned()
        } else {
            format!("| `{}` |", flag.default)
        };
        assert!(
            row.contains(&default),
            "--{}: the default is {default} in\n{row}",
            flag.name
        );
        assert_eq!(row.contains("(ours)"), flag.ours, "--{}", flag.name);
    }
}

#[test]
fn a_configuration_is_checked_without_starting() {
    let checked = |args: &[&str]| {
        let output = run(args, &[]);
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    };
    let file = crate::support::epp::in_package("config/default.yaml");
    let flag = format!("--config-file={}", file.display());
    let (code, stdout, stderr) = checked(&["check", &flag]);
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
    for line in [
        format!("# {}: good; config_hash ", file.display()).as_str(),
        "profileHandler: single-profile-handler",
        "queueDepthThreshold: 5",
        "metricsStalenessThreshold: 200ms",
        "type: max-score-picker",
    ] {
        assert!(stdout.contains(line), "{line}:\n{stdout}");
    }
    let wrong = "apiVersion: llm-d.ai/v1alpha1\nkind: EndpointPickerConfig\nplugins: [{type: queue-scorr}]\nplugin: 1\n";
    let (code, stdout, stderr) = checked(&["check", &format!("--config-text={wrong}")]);
    assert_eq!((code, stdout.as_str()), (Some(1), ""));
    assert!(
        stderr.contains("did you mean \"queue-scorer\"?") && stderr.contains("unknown field \"plugin\""),
        "{stderr}"
    );
    let (code, _, stderr) = checked(&["check"]);
    assert_eq!(code, Some(1));
    assert!(
        stderr.contains("nothing to check: name a configuration with --config-file or --config-text"),
        "{stderr}"
    );
    let (code, _, stderr) = checked(&["check", MISSING]);
    assert_eq!((code, stderr.contains(ACCEPTED)), (Some(1), true), "{stderr}");
    let (code, _, _) = checked(&["check", "--confg-file=x"]);
    assert_eq!(code, Some(2));
}

#[test]
fn the_endpoints_file_is_checked_with_the_configuration_that_names_it() {
    let folder = tempfile::tempdir().unwrap();
    let endpoints = folder.path().join("endpoints.yaml");
    let config = format!(
        "apiVersion: llm-d.ai/v1alpha1\nkind: EndpointPickerConfig\nplugins:\n- type: file-discovery\n  parameters: \
         {{path: {}}}\n- type: queue-scorer\ndataLayer: {{discovery: {{pluginRef: file-discovery}}}}\n",
        endpoints.display()
    );
    let flag = format!("--config-text={config}");
    let said = |code: i32| {
        let output = run(&["check", &flag], &[]);
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{stderr}");
        stderr
    };
    assert!(said(0).contains("warning: not checked: cannot read the endpoints file"));
    std::fs::write(&endpoints, "endpoints: [{name: a, adress: 10.0.0.1, port: 1}]").unwrap();
    assert!(said(1).contains("adress"));
    std::fs::write(&endpoints, "endpoints: [{name: a, address: 10.0.0.1, port: 1}]").unwrap();
    assert_eq!(said(0), "");
}
